// The application and its service principal. It has no secret here: secrets are made by hand and go into the vault (README).
extension microsoftGraphV1

param displayName string
param uniqueName string
param defender bool

@description('Names of application permissions of Microsoft Graph.')
param graphPermissions string[]

// Application ids of Microsoft's services are the same in every tenant.
var graphAppId = '00000003-0000-0000-c000-000000000000'
var defenderAppId = 'fc780465-2017-40d4-a0c5-307022471b92'

resource graph 'Microsoft.Graph/servicePrincipals@v1.0' existing = if (!empty(graphPermissions)) {
  appId: graphAppId
}

resource windowsDefender 'Microsoft.Graph/servicePrincipals@v1.0' existing = if (defender) {
  appId: defenderAppId
}

var graphAccess = empty(graphPermissions)
  ? []
  : [
      {
        resourceAppId: graphAppId
        resourceAccess: map(graphPermissions, name => {
          id: first(filter(graph!.appRoles!, role => role.value == name))!.id
          type: 'Role'
        })
      }
    ]

var defenderAccess = defender
  ? [
      {
        resourceAppId: defenderAppId
        resourceAccess: [
          { id: first(filter(windowsDefender!.appRoles!, role => role.value == 'Ti.ReadWrite.All'))!.id, type: 'Role' }
        ]
      }
    ]
  : []

resource application 'Microsoft.Graph/applications@v1.0' = {
  displayName: displayName
  uniqueName: uniqueName
  signInAudience: 'AzureADMyOrg'
  requiredResourceAccess: concat(graphAccess, defenderAccess)
}

resource principal 'Microsoft.Graph/servicePrincipals@v1.0' = {
  appId: application.appId
}

output clientId string = application.appId
output principalId string = principal.id

// Gives a principal the application permissions that its jobs need: this is what the portal calls admin consent.
extension microsoftGraphV1

@description('Object id of a service principal or of a managed identity.')
param principalId string

param defender bool

@description('Names of application permissions of Microsoft Graph.')
param graphPermissions string[]

resource graph 'Microsoft.Graph/servicePrincipals@v1.0' existing = if (!empty(graphPermissions)) {
  appId: '00000003-0000-0000-c000-000000000000'
}

resource windowsDefender 'Microsoft.Graph/servicePrincipals@v1.0' existing = if (defender) {
  appId: 'fc780465-2017-40d4-a0c5-307022471b92'
}

resource ofGraph 'Microsoft.Graph/appRoleAssignedTo@v1.0' = [
  for name in graphPermissions: {
    principalId: principalId
    resourceId: graph!.id
    appRoleId: first(filter(graph!.appRoles!, role => role.value == name))!.id!
  }
]

resource ofDefender 'Microsoft.Graph/appRoleAssignedTo@v1.0' = if (defender) {
  principalId: principalId
  resourceId: windowsDefender!.id
  appRoleId: first(filter(windowsDefender!.appRoles!, role => role.value == 'Ti.ReadWrite.All'))!.id!
}

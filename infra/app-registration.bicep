// The app registration, and what Microsoft Entra must allow the app. Another person than the deployer of the app often runs
// this: it needs rights in the directory (Privileged Role Administrator, or Application Administrator for Defender alone).
// With IDENTITY=managed no registration is made, and the identity of the app is given the permissions instead.

@description('Name of the registration, as people see it.')
param displayName string = 'Indicator Relay'

@description('Name by which a repeated deployment finds the same registration again. Never change it.')
param uniqueName string = 'indicator-relay'

@description('Object id of the app\'s managed identity (output `identityPrincipalId` of main.bicep): it is given the permissions, and nothing is registered. Blank: an app is registered.')
param managedIdentityPrincipalId string = ''

@description('Jobs send to Microsoft Defender for Endpoint with DELIVERY=product: Ti.ReadWrite.All of WindowsDefenderATP.')
param defender bool = false

@description('Jobs send with DELIVERY=graph: ThreatIndicators.ReadWrite.OwnedBy of Microsoft Graph.')
param graphIndicators bool = false

@description('What playbooks read and subscribe to: application permissions of Microsoft Graph by name, such as `User.Read.All` or `SecurityAlert.Read.All`. `indicator-relay check` names what is missing.')
param graphPermissions string[] = []

var ofGraph = union(graphPermissions, graphIndicators ? ['ThreatIndicators.ReadWrite.OwnedBy'] : [])
var register = empty(managedIdentityPrincipalId)

module registration 'modules/app-registration.bicep' = if (register) {
  params: { displayName: displayName, uniqueName: uniqueName, defender: defender, graphPermissions: ofGraph }
}

module roles 'modules/app-roles.bicep' = {
  params: {
    principalId: register ? registration!.outputs.principalId : managedIdentityPrincipalId
    defender: defender
    graphPermissions: ofGraph
  }
}

@description('MICROSOFT_GRAPH_CLIENT_ID; blank for a managed identity.')
output clientId string = register ? registration!.outputs.clientId : ''

@description('Object id to give the role on the workspace of Sentinel (`sentinelPrincipalId` of main.bicep).')
output principalId string = register ? registration!.outputs.principalId : managedIdentityPrincipalId
